"""How it runs: lanes, connections, transactions, and the way of a query through them."""
