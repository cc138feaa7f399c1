"""Tools of the checkout: the guest with the real kernel, servers for tests, the demo. Not installed."""
