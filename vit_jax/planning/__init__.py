"""What a train step needs on devices that need not be there: topologies, compiled programs, rooflines and sweeps."""
