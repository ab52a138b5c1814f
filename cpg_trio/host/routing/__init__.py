"""Calls from one plugin to another: headers, routes, and what is counted of them."""
