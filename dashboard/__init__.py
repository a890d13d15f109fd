"""Shows the store; acts only through guards' actions."""
