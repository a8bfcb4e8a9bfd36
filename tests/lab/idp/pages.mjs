// The pages a person sees at the identity provider: plain HTML, labelled fields, no script, nothing fetched.

const STYLE = `
  body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 24rem; margin: 3rem auto; padding: 0 1rem }
  label, input, button { display: block; width: 100%; box-sizing: border-box; font: inherit }
  input, button { padding: .5rem; margin: .25rem 0 1rem }
  [role=alert] { color: #b00020; font-weight: bold }`;

export function escape(text) {
  const names = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
  return String(text).replace(/[&<>"']/g, (character) => names[character]);
}

export function page(title, body, alert) {
  return `<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escape(title)}</title>
<style>${STYLE}</style></head>
<body><main><h1>${escape(title)}</h1>${alert ? `<p role="alert">${escape(alert)}</p>` : ''}
${body}
</main></body></html>`;
}

const cancel = (uid) => `<form method="post" action="/interaction/${uid}/abort"><button>Cancel</button></form>`;

export const passwordPage = (uid, login = '', alert = undefined) => page('Sign in', `
<form method="post" action="/interaction/${uid}/password">
  <label for="login">E-mail address</label>
  <input id="login" name="login" type="email" autocomplete="username" required value="${escape(login)}">
  <label for="password">Password</label>
  <input id="password" name="password" type="password" autocomplete="current-password" required>
  <button type="submit">Next</button>
</form>${cancel(uid)}`, alert);

export const codePage = (uid, alert = undefined) => page('Enter your code', `
<form method="post" action="/interaction/${uid}/totp">
  <label for="code">Six-digit code from your authenticator app</label>
  <input id="code" name="code" inputmode="numeric" autocomplete="one-time-code" pattern="[0-9]{6}" required autofocus>
  <button type="submit">Sign in</button>
</form>${cancel(uid)}`, alert);

export const consentPage = (uid, client) => page('Allow access?', `
<p>${escape(client)} wants to read and send your mail.</p>
<form method="post" action="/interaction/${uid}/consent"><button type="submit">Allow</button></form>${cancel(uid)}`);

// oidc-provider hands over the forms of the device flow ready made, with their own token against forgery.
export const deviceInputPage = (form, alert) => page('Connect a device', `
<p>Enter the code that your device shows.</p>
${form}
<button type="submit" form="op.deviceInputForm">Continue</button>`, alert);

export const deviceConfirmPage = (form, client, code) => page('Confirm the device', `
<p>${escape(client)} asks for access. Your device should show this code:</p>
<p><strong>${escape(code)}</strong></p>
${form}
<button type="submit" form="op.deviceConfirmForm">Continue</button>
<button type="submit" form="op.deviceConfirmForm" name="abort" value="yes">Cancel</button>`);

export const deviceDonePage = () => page('You are signed in', '<p>You can close this page.</p>');

export const errorPage = (out) => page('Sign-in failed', Object.entries(out)
  .map(([name, value]) => `<p><strong>${escape(name)}</strong>: ${escape(value)}</p>`).join('\n'));
