"""
The operator's command, for a deployed stack.

    app            the command and its parts
    command        what all of them have in common: their options, what becomes of an error
    connections    pollwire connections ...
    accounts       pollwire accounts ...
    streams        pollwire streams ...
    orders         pollwire reconcile, replay, watch: what is done beside the regular checks
    stuck          why a stream does not come on
    status         pollwire status: lag, troubles, queues
    recent         what the functions told lately, read from their lines
    logs           those lines, fetched within bounds
    subscriptions  pollwire subscribe, unsubscribe, subscriptions
    tail           pollwire tail: events as they are published
    redrive        pollwire redrive: dead letters, moved back
    doctor         pollwire doctor: what is well, and what is not
    health         what the doctor looks at
    subscribers    the topic's subscriptions
    deadletters    dead-letter queues, and the way back
    queues         SQS queues: named, opened to the topic, measured
    importing      accounts from a file: sealed, registered, counted
    lines          one line of such a file, read or refused
    session        the stack that a command works on
    secret         credentials, read so that nobody else sees them
    output         tables for people, JSON for programs

Runs where an operator is logged in to AWS; no part of any Lambda layer.
"""
