"""Data: records, how they are stored and read, and the builders of the project's own sets."""
