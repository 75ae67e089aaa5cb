"""The console: one page that shows the dial, one prompt across it, and live traffic."""
