"""Mixed traffic on several processes under a seeded row of faults, and the figures that must add up afterwards.

python -m tests.chaos.driver --store embedded --seconds 600 --faults 50 --seed 1     (scripts/chaos)

    plan.py      which fault comes when: from the seed
    traffic.py   what the clients do, by number: from the seed; sidelines.py: reservations, ingest, top-ups
    town.py      what every setting has
    embedded.py  one setting, external.py with stores.py: the others, and the faults only they know
    host.py      one machine with a gateway on it; shim.py, disk.py, clock.py, link.py: what of it can be disturbed
    figures.py   what the book has, beside what clients were told and what the upstream says it served
    checks.py    what of docs/reference/durability.md does not hold
    run.py       all of it in order; report.py: the table
"""
