"""Random spellings of the same computation: what must come out as one form."""
