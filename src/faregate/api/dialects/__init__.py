"""Other services' ways to tell of usage, one file each: thin adapters, with no pricing or charging of their own.

Each translates its body into `counted.Counted`, books through `ingest`, and answers (errors, too) in its own shape.
"""
