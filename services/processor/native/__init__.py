"""The compiled part: `columns.c`, what compiles it at set-up, what loads it. All works without it."""
