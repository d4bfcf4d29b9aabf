"""Other people's data formats, read as a `Dataset` and written from one; see registry.py."""
