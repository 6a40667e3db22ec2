"""Result files that outlive the upstream's purge.

A job that completes has its output URLs written down in the same transaction, so none is forgotten. Then, as often as it
takes, and until an hour before the purge:

    claim      a file that is due, under a lease that is renewed while bytes flow
    fetch      GET its source, through the guard that deliveries have; count, hash and look at what flows
    store      into an object whose name no other attempt uses, whole or not at all
    look       at pictures: dimensions, a thumbnail, whether they are whole
    record     by compare-and-set on the lease: only now is it a file that is served

This package fetches, stores and serves. When that is done, and whom to tell of it, is the affair of `jobs`.
"""
