"""Predictions in the formats of other programs: BIDS derivatives, nnU-Net, submissions to the WMH challenge."""
