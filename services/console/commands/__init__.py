"""One command of `tandem` per file: options, wiring and what is printed. The work is done beside them."""
