"""
Pollwire: APIs that can only be polled, turned into a stream of events on SQS.

    schedule   which shards are due this minute?       -> Checks
    check      which streams of which accounts moved?  -> Deltas, one queue a stream
    delta      what changed in one stream?             -> Events
"""
