"""The dashboard at `/ops`, for whoever runs the service: pages rendered here, readable without JavaScript.

    routes       every page and action on one screen
    visits       what a page is given: who looks, and how to answer
    sessions     a key exchanged for a cookie
    signing      the two pages around that
    live         what has open pages look again
    words        how times, sizes and JSON are written
    listing      filters in the URL, and the way on to older entries
    templates static

A page asks the rooms below for what it shows and has them do what its buttons say: it holds no rule of its own. A button is
a form with a CSRF token, its answer a redirect to a page that tells what was done. Every action is in the audit log, noted
in the transaction that does it.
"""
