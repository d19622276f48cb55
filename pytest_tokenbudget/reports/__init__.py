"""The JSON document and every way to tell it. Pure."""
