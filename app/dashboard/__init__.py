"""The dashboard at `/ops`, for whoever runs the service: pages rendered here, readable without JavaScript.

    routes       every page and action on one screen
    visits       what a page is given: who looks, and how to answer
    sessions     a key exchanged for a cookie
    signing      the two pages around that
    live         what has open pages look again
    jobs         the list of jobs, its filters, and what it can be taken away as
    bulk         one thing done to many of them: seen before, and told of after
    job          the page of one, with its timeline and its buttons
    timeline     how the steps of its trace read
    commands     what a shell is to be told to submit it again
    files        what it made
    words        how times, sizes and JSON are written
    listing      filters in the URL, and the way on to older entries
    templates static

A page asks the rooms below for what it shows and has them do what its buttons say: it holds no rule of its own. A button is
a form with a CSRF token, its answer a redirect to a page that tells what was done. Every action is in the audit log, noted
in the transaction that does it.
"""
