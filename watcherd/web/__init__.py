"""The page that `watcherd web` shows, in a process of its own: it reads as any reader does, and has others write."""
