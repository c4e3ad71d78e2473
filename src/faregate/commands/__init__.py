"""The commands: parse, call, print. `faregate.cli` lists them; one module each, imported when it is called.

options    what several commands take            shared     tables and moments
desk       where commands work                   local      a desk on the data directory
drift      Redis compared with the book          remote     a desk on a running server's API
shapes     the API's JSON of what is printed     catalog    the price catalogue of a configuration
"""

from __future__ import annotations
