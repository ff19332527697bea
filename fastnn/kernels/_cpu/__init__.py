"""The CPU's engine room: what its block functions are compiled and run by, and what they share."""
