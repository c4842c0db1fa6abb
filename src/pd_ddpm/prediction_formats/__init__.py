"""Predictions as other programs want them: BIDS derivatives, nnU-Net's folder of predictions, a challenge's submission.

`predictions` finds what a method has predicted and the grid of the source scans; `bids`, `nnunet` and `submission` say
which files a format consists of; `conversion` writes them.
"""
