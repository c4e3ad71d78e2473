"""Pure logic: no I/O, no async, no clock. The words used here are those of SQL, Lua, API and command line.

account      a wallet that is charged              hold        credits set aside for a call or a reservation
call         one request to a model, as asked      attempt     one try of a call at one provider
estimate     an upper bound of what a call costs   usage       what the provider says was consumed, by class
price card   rates of one provider+model+tier      cost        exact USD of a usage on a card (Decimal)
charge       credits taken: cost x markup x multiplier
entry        one immutable line of the ledger      usage record   one priced, attributed line of what was used
limit        a cap on credits, requests, tokens or concurrency per key and window
"""

from __future__ import annotations
