"""
Pollwire: APIs that can only be polled, turned into a stream of events on SQS.

    schedule   which shards are due this minute?       -> Checks
    check      which streams of which accounts moved?  -> Deltas, one queue a stream
    delta      what changed in one stream?             -> Events
    push       whom does a provider tell of?           -> Checks
"""

#: Of the command and of what is deployed: the template's output Version says it, too.
__version__ = "0.1.0"
