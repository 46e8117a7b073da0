"""Load from outside: workflows sent at the times they are due, whatever the server makes of those before."""
