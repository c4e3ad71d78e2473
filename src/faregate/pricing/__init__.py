"""Prices: which card is in force for a model (`catalog`), where cards come from, and `faregate price` (`filter`).

entry    one price of one tier, as an operator writes it (prices file, `/v1/admin/prices`) or as it is shipped
card     the rates of a provider's model, all tiers joined, pinned on a call
layer    a source of cards; the first that knows a model decides
seller   the kind (and its own model name) under which the shipped layers know a model
"""
