"""
The operator's command: registers connections and accounts in a deployed stack.

    app          the command and its parts; what becomes of an error
    connections  pollwire connections ...
    accounts     pollwire accounts ...
    streams      pollwire streams ...
    orders       pollwire reconcile, replay, watch: what is done beside the regular checks
    stuck        why a stream does not come on
    importing    accounts from a file: sealed, registered, counted
    lines        one line of such a file, read or refused
    session      the stack that a command works on
    secret       credentials, read so that nobody else sees them
    output       tables for people, JSON for programs

Runs where an operator is logged in to AWS; no part of any Lambda layer.
"""
