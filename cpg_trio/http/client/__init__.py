"""The client side: where a request goes, the connections to it, and one exchange on them."""
