"""What leaves for other services: billed usage, to Stripe's meters."""
