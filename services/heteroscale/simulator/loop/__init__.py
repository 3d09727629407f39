"""The real loop beside the cluster: who runs the services, and how virtual time waits for them."""
