import { defineConfig } from "vite";

// `npm run dev` passes the API on to a running daemon: SLUICE_URL, or the default address.
const daemon = process.env["SLUICE_URL"] ?? "http://127.0.0.1:8080";

export default defineConfig({
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  build: { target: "es2022", modulePreload: false, assetsInlineLimit: 0, reportCompressedSize: false },
  server: { host: "127.0.0.1", proxy: { "/api": { target: daemon } } },
});
