"""`kill -9` of everything under load, and afterwards three books laid side by side: does the product keep its promises?

Real processes of the service stand between callers and a simulated Apiframe that refuses, hangs, cuts and loses. All of
them, and their PostgreSQL, are killed again and again. When it is quiet, what callers were told, what the database holds
and what the upstream saw must agree. Nothing is excused: a number that has to be zero is zero, or the run has failed.

    plan        what a seed decides: submissions, kills, the upstream's faults, and the settings of the service
    processes   the service's processes: started, killed, started again, and none left behind
    callers     submit as clients do: again, with the same Idempotency-Key, until a 202
    storm       callers and kills at once, then the quiet that the comparison needs
    compare     the three books laid side by side (pure)
    ledgers     where two of them are read: the database and the simulator
    report      the numbers, the table and the progress
    run         all of it in order, and the evidence that is kept when a number is wrong
"""
