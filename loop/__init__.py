"""What proposes, trains, generates, evaluates and runs steps."""
