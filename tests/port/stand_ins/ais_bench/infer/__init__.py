"""See ais_bench/__init__.py: this is a stand-in."""
