"""Who calls, and what the caller may do.

Its modules:

    access_check                one check for every way into the host, made of the following
    refusal                     what it raises, for each edge to write in its protocol
    identity, keys              identities and the tokens that prove them
    ended_identities            identities that have expired or were revoked
    enrolment, secret_files     which plugins get an identity
    peers                       the address and the certificate of a connection
    policy                      what plugins may do
    rate_limiting               how often they may call
    audit                       the record of decisions
    limits, shares, memory      how much is kept, for whom, and how much memory that takes
    listening                   where a host may listen

The access check and the policy do no I/O, except that files are read again when they change.
"""
