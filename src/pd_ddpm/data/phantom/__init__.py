"""Anatomical phantom of the WMH challenge, made offline from the MNI152 template that nilearn carries."""
