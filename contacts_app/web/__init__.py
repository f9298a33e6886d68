"""What every page needs: htmx, templates, assets, security headers, form fields and errors."""
