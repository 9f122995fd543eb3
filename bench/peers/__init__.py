"""The same work done with other libraries, one short file each; `python -m bench.compare` runs them."""
