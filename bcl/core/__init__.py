"""What every room stands on: errors, checks, draws by key, ranks, files."""
