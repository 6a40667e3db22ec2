"""SQL of deliveries: publishing, sending, and what subscribers ask for."""
