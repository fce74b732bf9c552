"""Fan-out: what a delivery costs, beside other servers, in one run on one machine."""
