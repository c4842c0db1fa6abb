"""Download of the WMH challenge from Dataverse."""
