"""A realtime session: events pass both ways as they came; each response has a hold of its own, and a charge.

    handshake   a hold, before there is any connection to the provider: it becomes the first response's
    response    asked for by the client: held before it is forwarded, its bound lowered to what the hold covers;
                begun by the server (voice detection): held for its worst case, or cancelled and the session closed
    done        charged first, then told to the client; cancelled ones, too
    heard       a transcription is charged as a record of its own, at the price of the model that heard
    the end     what is under way is cancelled, and charged by what the provider still says of it, else by what came

`fares.py` has the money, `session.py` the events, `door.py` the handshake.
"""
