"""Predictions in the formats of other programs: BIDS derivatives, nnU-Net, the WMH challenge's submission."""
