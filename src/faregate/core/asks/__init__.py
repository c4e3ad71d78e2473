"""What requests ask for, a file per family of endpoints; `core/asked.py` is the table over them.

asked       the output a request allows: so much per choice, so many choices
input       the most it can bring: tokens, what besides text is in them, and units that are billed by themselves
allowances  what stands for what cannot be counted in a body: an image, a second of sound, a page
"""
