"""What every room builds on: errors, checks, draws by key, ranks, files."""
