"""Result files kept before the vendor purges them."""
