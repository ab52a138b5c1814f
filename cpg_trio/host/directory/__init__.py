"""Which plugins there are: registrations, leases, the store behind them, and watches."""
