"""Several hosts with one directory in etcd, all of them real processes, and faults of each tier."""
