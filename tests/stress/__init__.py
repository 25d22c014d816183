"""Everything at once, on one broker: a storm, abuse, a store that goes away, a revoked key, a drain in the middle."""
