"""The sections of a configuration as types: each key's type, range, unit and meaning, and the checks within a section."""
