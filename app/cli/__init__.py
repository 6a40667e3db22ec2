"""The console script `framehook`: its commands by what they are about, and `main`, which lists them all."""
