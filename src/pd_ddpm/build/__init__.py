"""Names in the configuration to objects: the pages that list every choice. Only scripts import from here."""
